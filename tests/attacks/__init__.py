"""What an audit of commit 06a3844 found, tried again: each attack succeeds there and fails now."""
