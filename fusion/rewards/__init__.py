"""What gives answers a reward: reward models behind one protocol, and language models as judges."""
