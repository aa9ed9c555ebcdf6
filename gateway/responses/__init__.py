"""OpenAI's Responses API on top of chat completions: translates requests and responses.

Rules: pure; time and ids are parameters. Nothing is stored between two requests.
"""
