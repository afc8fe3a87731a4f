templates/queue_openai.py
