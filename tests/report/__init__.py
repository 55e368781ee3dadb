"""Tests of `jadeberta report`."""
