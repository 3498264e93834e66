"""Chatbots: what text from outside makes them say. The text is the input, the conversation around it stays."""
