"""The daemon's side of the network: one stream of a sandbox's for each connection.

A stream carries what a client wrote to the proxy port inside. Here it is read, decided,
resolved, vetted, dialled and relayed; nothing of it is interpreted anywhere else.
"""
