"""Says what a run keeps of its models, and reads them back."""
