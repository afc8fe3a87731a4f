templates/queue.lua
