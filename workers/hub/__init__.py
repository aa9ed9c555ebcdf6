"""Where model files come from: a folder, or a repository of the Hugging Face Hub with resumable
downloads.
"""
