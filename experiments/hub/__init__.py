"""Runs on the Hugging Face Hub: the folder that is uploaded, its model card, and loading it again."""
