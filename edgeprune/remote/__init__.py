"""Devices that answer over SSH: connecting, running commands, copying, setting them up. Without torch.

A room of its own beside bench/: setting up and delivering need it as well as measuring, and bench/ runs on devices,
which have no asyncssh.
"""
