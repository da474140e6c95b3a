"""The Beam jobs; every one stands on ``l2features``, where what they do is written and tested."""
