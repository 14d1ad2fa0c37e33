"""The networks in torch: preview, refiner, codec, text encoder, policy, and their presets."""
