"""Decoding in processes of their own, so that a decoder that hangs or crashes harms nobody."""
