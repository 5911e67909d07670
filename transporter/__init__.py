"""The transporter pair: two daemons that copy backup data to another site and bring it back."""

__version__ = "0.1.0"
