"""Runs on the Hugging Face Hub: write the folder to upload, write its model card, upload it, and download it again."""
