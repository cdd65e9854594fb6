"""What goes over the wire, defined once: requests, replies, events, errors and stored traces.

Server, clients and training use these. Nothing here knows HTTP, models or files.
"""
