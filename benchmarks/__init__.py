"""Every figure that README or docs state, each made by one command."""
