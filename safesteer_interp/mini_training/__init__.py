"""How mini is trained and graded: towers, alignment, visual instruction, the model card. What loading mini needs is in `models/mini`."""
