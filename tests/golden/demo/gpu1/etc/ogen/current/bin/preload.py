templates/preload.py
