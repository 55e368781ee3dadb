"""What a training step costs: counted without a device (`account`) and timed (`variants`)."""
