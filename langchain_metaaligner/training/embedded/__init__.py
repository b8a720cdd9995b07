"""How the embedded adapter was made: its sources, its texts and the mix of its examples."""
