"""The contenders: this pair, the tools that people use today, and the roofline."""
