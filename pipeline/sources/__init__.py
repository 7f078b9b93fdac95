"""What comes in: prompt lists, pictures, and ratings that people gave."""
