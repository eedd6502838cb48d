"""The search for a recipe, behind ``tenpak recommend``: above the gate, which it asks about each."""
