"""`jadeberta watch`: looks at runs from outside, and calls a person when one needs it, stops, hangs or is done."""
