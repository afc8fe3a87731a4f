templates/monitor.py
