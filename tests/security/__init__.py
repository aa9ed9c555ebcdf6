"""What strangers may send: each attack over real sockets, or against what it is meant for."""
