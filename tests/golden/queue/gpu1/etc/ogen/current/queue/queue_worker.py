templates/queue_worker.py
