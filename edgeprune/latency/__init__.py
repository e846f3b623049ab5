"""How long a plan will take on its target: layers timed on the device, and a model of whole engines made of them."""
