templates/queue_store.py
