"""What a machine is to a gate: its device, the store that it shares with others, jobs it does for them."""
