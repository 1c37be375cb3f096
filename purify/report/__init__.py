"""From stored records to what the book shows."""
