"""Images with their surface normals: sets, and the DataModule that makes batches of any."""
