"""Who answers for owners that are away: four rules on the rows that lack an expert which the gate chose."""
