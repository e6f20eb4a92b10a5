"""The registry killed, starved, cut and frozen: is what it acknowledged still there, and only that?"""
