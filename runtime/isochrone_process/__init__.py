"""What gateway and executor do alike as Linux processes: log, show certificates, keep a steady pace."""
