#!/bin/sh
# This project's hosts for Ansible:  ansible -i inventory.sh all -m ping
exec ogen inventory "$(dirname "$0")/inventory.yaml" "$@"
