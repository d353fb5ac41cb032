"""The only code that speaks HTTP outwards. It fetches what it is told to and vouches for nothing but the transfer."""
