"""What a quantized network loses, and where: each op alone, all of them, in tables and pictures."""
