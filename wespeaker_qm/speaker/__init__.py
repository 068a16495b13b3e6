"""What a trained model is for: embeddings of recordings, and whether two are of one speaker.

:class:`wespeaker_qm.Speaker` is the public name. Only ``torch_network`` imports torch.
"""
