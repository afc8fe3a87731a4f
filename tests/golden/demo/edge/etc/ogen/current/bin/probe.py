templates/probe.py
