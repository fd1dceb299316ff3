"""The command line, a door: what it shows another door shows, too."""
