"""What became of a run: its document, plan copies, report and notices."""
