"""Parts that two or more methods are built of; what one method alone uses lies in its folder."""
