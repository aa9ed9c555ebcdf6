"""What all workers share: the endpoint around each route, the model thread, images as bytes and
pixels.
"""
