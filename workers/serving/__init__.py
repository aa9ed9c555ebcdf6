"""What all workers share: the endpoint around each route, the model thread, the image codec."""
