templates/queue_front.py
