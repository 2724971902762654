"""What an operator types, a module a group of commands; `fedwon.server.cli` puts them together."""
