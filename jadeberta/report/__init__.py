"""`jadeberta report`: a run, or several, as one HTML file that loads nothing."""
