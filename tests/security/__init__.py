"""What strangers may try: each test is an attack, and says how it ends."""
