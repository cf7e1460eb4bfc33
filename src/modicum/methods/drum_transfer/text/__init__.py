"""How grooves are written: notations, text, MIDI and tabs."""
