"""OpenAI's Responses API over chats: what is asked becomes a chat, what the chat answers a response.

Rules: pure; time and ids are parameters. Nothing is kept between two requests.
"""
