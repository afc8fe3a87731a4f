templates/leases.py
