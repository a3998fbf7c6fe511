"""The contracts between the parts: what data looks like when it crosses."""
