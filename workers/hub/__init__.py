"""Model files: a folder, or a repository of the Hugging Face Hub with resumable downloads."""
